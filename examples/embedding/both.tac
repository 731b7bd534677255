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

from llmux import Active, ModelSwitcher, Switching, load_config, make_service


class Status(Resource):
    """Says in a line what the switcher does."""

    isLeaf = True

    def __init__(self, switcher: ModelSwitcher) -> None:
        super().__init__()
        self._switcher = switcher

    def render_GET(self, request):
        request.setHeader("content-type", "text/plain; charset=utf-8")
        match self._switcher.state:
            case Active(model):
                line = f"{model} is awake\n"
            case Switching(source, target):
                line = f"switching from {source or 'nothing'} to {target or 'nothing'}\n"
            case _:
                line = "nothing is awake\n"
        return line.encode()


application = Application("llmux and a status page")

llmux = make_service(load_config("config.yaml"), reactor)
llmux.setServiceParent(application)

status = Site(Status(llmux.switcher))
endpoint = serverFromString(reactor, "tcp:3001:interface=127.0.0.1")
StreamServerEndpointService(endpoint, status).setServiceParent(application)
