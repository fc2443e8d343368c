"""Answers ARP for an address with a MAC, so many milliseconds late: late-arp.py LINK ADDRESS MAC MS"""

import socket
import struct
import sys
import threading

link, address, mac, late_ms = sys.argv[1:]
address = socket.inet_aton(address)
mac = bytes.fromhex(mac.replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind((link, 0x0806))
print("up", flush=True)
while True:
    frame = wire.recv(2048)
    if frame[20:22] == b"\0\1" and frame[38:42] == address:
        head = struct.pack("!HHBBH", 1, 0x800, 6, 4, 2)
        answer = frame[6:12] + mac + b"\x08\x06" + head + mac + address + frame[22:32]
        threading.Timer(int(late_ms) / 1000, wire.send, [answer]).start()
