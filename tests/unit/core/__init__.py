"""Tests of `funkenshield.core`, module by module."""
