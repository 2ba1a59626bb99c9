"""Plain TCP over four connections, for a link to be filled:  python3 fill.py fill|drain HOST:PORT

Ends by itself after 20 s.
"""

import socket
import sys
import threading
import time

CONNECTIONS, SECONDS, PIECE = 4, 20, 1 << 20


def fill(address, end):
    with socket.create_connection(address) as connection:
        piece = bytes(PIECE)
        while time.monotonic() < end:
            connection.sendall(piece)


def drain(connection, end):
    with connection:
        piece = bytearray(PIECE)
        while time.monotonic() < end and connection.recv_into(piece):
            pass


def main(what, address):
    host, _, port = address.rpartition(":")
    end = time.monotonic() + SECONDS
    if what == "fill":
        threads = [threading.Thread(target=fill, args=((host, int(port)), end)) for _ in range(CONNECTIONS)]
    else:
        listener = socket.create_server((host, int(port)))
        listener.settimeout(SECONDS)
        threads = [threading.Thread(target=drain, args=(listener.accept()[0], end)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
