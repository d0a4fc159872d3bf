"""Commands for the people who run the function: `python -m ops --help`."""
