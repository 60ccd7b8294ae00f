"""Tests of `funkenshield.config`, module by module."""
