"""Tests of `funkenshield.cache`, module by module."""
