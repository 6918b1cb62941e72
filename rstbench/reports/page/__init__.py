"""Write the page of a request, one file that needs nothing else; jinja2 is loaded when it is written."""
