"""The socket that the service listens on."""

from __future__ import annotations

import contextlib
import socket

from babelclip.search.server.listening import bound


def test_the_body_of_an_answer_does_not_wait_until_its_head_has_been_acknowledged():
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bound("127.0.0.1", 0))
        listening.listen()
        stack.enter_context(socket.create_connection(listening.getsockname()))
        connection, _peer = listening.accept()
        stack.enter_context(connection)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
