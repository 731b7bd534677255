"""
llmux and another service in one process: a page that says which model is awake.

    twistd -ny both.tac
"""

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import Site

from llmux import ModelSwitcher, load_config, make_service


class Status(Resource):
    """Says in a line what the switcher does."""

    isLeaf = True

    def __init__(self, switcher: ModelSwitcher) -> None:
        super().__init__()
        self._switcher = switcher

    def render_GET(self, request):
        request.setHeader("content-type", "text/plain; charset=utf-8")
        status = self._switcher.status().items()
        line = "".join(f"{model} is {what.phase.value}\n" for model, what in status)
        return line.encode()


application = Application("llmux and a status page")

llmux = make_service(load_config("config.yaml"), reactor)
llmux.setServiceParent(application)

status = Site(Status(llmux.switcher))
endpoint = serverFromString(reactor, "tcp:3001:interface=127.0.0.1")
StreamServerEndpointService(endpoint, status).setServiceParent(application)
