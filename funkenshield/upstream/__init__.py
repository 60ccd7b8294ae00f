"""The servers behind the shield: which of them to ask, and how they are reached."""
