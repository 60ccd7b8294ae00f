"""Zones: their settings, their serials, and zones that we answer for ourselves."""
