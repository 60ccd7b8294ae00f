"""Tests of `funkenshield.announce`, module by module."""
