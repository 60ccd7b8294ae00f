"""Tests of `funkenshield.zones`, module by module."""
