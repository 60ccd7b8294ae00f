"""Tests of `funkenshield.rules`, module by module."""
