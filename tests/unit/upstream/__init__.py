"""Tests of `funkenshield.upstream`, module by module."""
