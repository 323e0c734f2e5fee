"""The store as web pages, served by `flowstore ui`: read, live, and safe to open beside anybody's tasks.

    app        routes, and how a page function becomes a response
    pages/     the contract of a page, the list of all pages, and one module for each family of them
    templating templates/*.html with the filters that show times, sizes and addresses
    stores     the connections that requests share
    security   who may ask, and what a browser may do with the answer
    server     the port, the browser, and the end

Starlette, Jinja2 and uvicorn are imported here and nowhere else.
"""
