"""Pages of a store, as a browser asks for them."""

from __future__ import annotations

import warnings

from flowstore.web.app import create_app
from flowstore.web.security import Access
from flowstore.web.stores import Stores

with warnings.catch_warnings():  # the newest Starlette prefers the successor of httpx, which older ones do not know
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

HOST = "http://127.0.0.1:8765"


class Browser:
    """A browser that has the token; `stranger` is the same one without it."""

    def __init__(self, path, **options):
        self.path = path
        self.stores = Stores(path, **options)
        self.access = Access.to(self.stores.path, 8765, ["flows.example"])
        self.stranger = TestClient(create_app(self.stores, self.access), base_url=HOST, follow_redirects=False)
        self.stranger.__enter__()
        self.token = self.access.token
        self.headers = {"cookie": f"{self.access.cookie}={self.token}"}

    def ask(self, url, code=200, params=None, **headers):
        """The answer to a GET, which must have that code."""
        answer = self.stranger.get(url, params=params, headers={**self.headers, **headers})
        assert answer.status_code == code, answer.text
        return answer

    def page(self, url, code=200):
        """The HTML of a page."""
        return self.ask(url, code).text

    def json(self, url, code=200):
        """The JSON of a page."""
        return self.ask(url, code).json()

    def send(self, url, code=303, origin=HOST, **fields):
        """The answer to a form that is sent."""
        headers = {**self.headers, **({} if origin is None else {"origin": origin})}
        answer = self.stranger.post(url, data=fields, headers=headers)
        assert answer.status_code == code, answer.text
        return answer

    def close(self):
        """Stop serving, which leaves one file."""
        self.stranger.__exit__(None, None, None)
