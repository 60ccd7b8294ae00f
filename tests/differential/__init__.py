"""The shield beside the nameserver behind it: nobody can tell which of the two answered."""
