"""Local disks: one backend a file, all of the same shape (``cowshed.contract.storage``)."""
