"""The re-rank endpoint: the script of its container, and the archive of script and booster."""
