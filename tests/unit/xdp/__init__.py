"""Tests of `funkenshield.xdp`, module by module; what takes root is in `tests/xdp`."""
