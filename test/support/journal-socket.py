"""journal-socket.py COUNT COMMAND...: stands for journald's socket.

Runs the command with a connected datagram socket, as the launcher does. It reads nothing until the command has written
all it has ("written"), takes COUNT datagrams, and then, with "gone" in KVMNATD_TEST_SOCKET, closes the socket; else it
goes on to the command's end. Prints the datagrams, each with a zero byte between, after two of them the lines that the
command wrote meanwhile, and ends as it did.
"""
import os
import socket
import sys

count = int(sys.argv[1])
server, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
client.setblocking(False)
os.set_inheritable(client.fileno(), True)
to_child, from_us = os.pipe()
from_child, to_us = os.pipe()
pid = os.fork()
if pid == 0:
    os.dup2(to_child, 0)
    os.dup2(to_us, 1)
    os.environ["KVMNATD_JOURNAL_FD"] = str(client.fileno())
    os.closerange(3, client.fileno())
    os.closerange(client.fileno() + 1, 64)
    os.execvp(sys.argv[2], sys.argv[2:])
client.close()
os.close(to_us)
lines = os.fdopen(from_child)
while lines.readline() != "written\n":
    pass
server.settimeout(30)
entries = [server.recv(100000).decode() for _ in range(count)]
if os.environ.get("KVMNATD_TEST_SOCKET") == "gone":
    server.close()
os.write(from_us, b"\n")
rest = lines.read()
while server.fileno() != -1:
    server.setblocking(False)
    try:
        entries.append(server.recv(100000).decode())
    except BlockingIOError:
        break
print("\0".join(entries), rest, sep="\0\0", end="")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
