"""Tests of `funkenshield.policy`, module by module."""
