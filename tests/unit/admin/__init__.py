"""Tests of `funkenshield.admin`, module by module."""
