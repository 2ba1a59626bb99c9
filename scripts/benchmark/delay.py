"""A TCP proxy that delays every byte in each direction:  python3 delay.py LISTEN TARGET SECONDS

It ends the TCP connections, so a slow start over the long way is not shown; what is shown is each round trip of the protocol
on top, and a window: at most 4 MiB a direction are under way in one connection, as with the kernel's default buffers.
"""

import collections
import socket
import sys
import threading
import time

WINDOW = 4 << 20
PIECE = 256 << 10


def carry(source, sink, delay):
    pieces, state = collections.deque(), threading.Condition()
    under_way, ended = 0, False

    def deliver():
        nonlocal under_way
        while True:
            with state:
                state.wait_for(lambda: pieces or ended)
                if not pieces:
                    break
                due, data = pieces.popleft()
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            if not data:
                break
            try:
                sink.sendall(data)
            except OSError:
                pass
            with state:
                under_way -= len(data)
                state.notify_all()
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    thread = threading.Thread(target=deliver, daemon=True)
    thread.start()
    data = b"-"
    while data:
        try:
            data = source.recv(PIECE)
        except OSError:
            data = b""
        with state:
            pieces.append((time.monotonic() + delay, data))
            under_way += len(data)
            state.notify_all()
            state.wait_for(lambda: under_way < WINDOW)
    thread.join()


def serve(client, target, delay):
    time.sleep(2 * delay)  # the handshake's round trip
    try:
        server = socket.create_connection(target)
    except OSError:
        client.close()
        return
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ways = [threading.Thread(target=carry, args=(a, b, delay), daemon=True) for a, b in ((client, server), (server, client))]
    for way in ways:
        way.start()
    for way in ways:
        way.join()
    client.close()
    server.close()


def main():
    (host, port), (to, at) = (word.rsplit(":", 1) for word in sys.argv[1:3])
    listener = socket.create_server((host, int(port)))
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, (to, int(at)), float(sys.argv[3])), daemon=True).start()


main()
