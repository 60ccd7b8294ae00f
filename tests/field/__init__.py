"""The daemon among other people's programs, on networks that are slow, small or odd."""
