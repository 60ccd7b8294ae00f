"""Tests of `funkenshield.wire`, module by module."""
