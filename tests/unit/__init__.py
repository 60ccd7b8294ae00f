"""The package's modules by themselves: folders are the package's, and each file has the name of what it tests."""
