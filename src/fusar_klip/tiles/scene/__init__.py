"""Reading, radiometry and geocoding of one SAR scene."""
