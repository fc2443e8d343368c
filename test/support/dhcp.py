"""A DHCP client that says what it likes. Runs inside a guest's namespace, on eth0.

  dhcp.py lease    [mac=..] [id=HEX] [host=HEX] [count=N]   takes leases (of MACs counted up), prints each address
  dhcp.py decline  [mac=..] [id=HEX]                        takes a lease and declines it
  dhcp.py release  ip=.. [mac=..] [id=HEX]                  releases a lease, its own or another's
  dhcp.py flood    [seconds=N] [rate=N]                     asks for offers, each time with another MAC
"""
import os
import socket
import struct
import sys
import time

DISCOVER, OFFER, REQUEST, DECLINE, ACK, RELEASE = 1, 2, 3, 4, 5, 7
SERVER = socket.inet_aton("192.168.122.1")
action, given = sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])
own = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("eth0", 0x0800))
wire.settimeout(0.2)


def option(code, value):
    return bytes([code, len(value)]) + value


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def send(kind, mac, xid, extra=b"", address="0.0.0.0"):
    """The frame's sender is the guest's own card: only the payload lies."""
    ip = socket.inet_aton(address)
    body = struct.pack("!BBBBIHH", 1, 1, 6, 0, xid, 0, 0x8000) + ip + bytes(12) + mac + bytes(10 + 192)
    body += b"\x63\x82\x53\x63" + option(53, bytes([kind]))
    if "id" in given:
        body += option(61, bytes.fromhex(given["id"]))
    if "host" in given and kind in (DISCOVER, REQUEST):
        body += option(12, bytes.fromhex(given["host"]))
    body = (body + extra + b"\xff").ljust(300, b"\0")
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ip + b"\xff" * 4
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    wire.send(b"\xff" * 6 + own + b"\x08\0" + head + udp)


def receive(xid, kind):
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        try:
            frame = wire.recv(2000)
        except socket.timeout:
            continue
        reply = frame[42:]
        if len(reply) < 244 or frame[23] != 17 or reply[4:8] != struct.pack("!I", xid):
            continue
        if bytes([53, 1, kind]) in reply[240:]:
            return socket.inet_ntoa(reply[16:20])
    raise SystemExit("no answer")


def lease(mac):
    xid = int.from_bytes(os.urandom(4), "big")
    send(DISCOVER, mac, xid)
    wanted = option(50, socket.inet_aton(receive(xid, OFFER))) + option(54, SERVER)
    send(REQUEST, mac, xid, wanted)
    return receive(xid, ACK)


first = bytes.fromhex(given.get("mac", own.hex()).replace(":", ""))
if action == "lease":
    for number in range(int(given.get("count", "1"))):
        print(lease((int.from_bytes(first, "big") + number).to_bytes(6, "big")), flush=True)
elif action == "decline":
    address = lease(first)
    send(DECLINE, first, 1, option(50, socket.inet_aton(address)) + option(54, SERVER))
elif action == "release":
    send(RELEASE, first, 1, option(54, SERVER), given["ip"])
elif action == "flood":
    rate = int(given.get("rate", "500"))
    for number in range(rate * int(given.get("seconds", "3"))):
        send(DISCOVER, b"\x52\x54\x00\x99" + struct.pack("!H", number), number + 1)
        time.sleep(1 / rate)
