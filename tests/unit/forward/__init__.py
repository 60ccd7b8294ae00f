"""Tests of `funkenshield.forward`, module by module."""
