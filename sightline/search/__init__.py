"""Search for values: what may be tried, and what is tried next. Knows neither runs nor files."""
