"""What an interface receives, before the kernel's network stack has it: programs there, frames in our memory."""
