"""Tests of `funkenshield.tools`, module by module."""
