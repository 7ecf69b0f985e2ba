"""Files of a run's folder: made, locked, appended to and replaced so that a kill never leaves half of one."""
