"""Tests of `funkenshield.server`, module by module."""
