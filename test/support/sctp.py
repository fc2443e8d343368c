"""SCTP without the kernel's help (not every kernel has its sockets): one INIT over raw sockets.

sctp.py send HOST PORT    sends INIT chunks until it is stopped
sctp.py wait PORT         prints `hello` when an INIT arrives at this port
"""
import socket, struct, sys, time


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def init(port):
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 1)
    header = struct.pack("!HHII", 40000, port, 0, 0)
    return struct.pack("!HHI", 40000, port, 0) + struct.pack("<I", crc32c(header + chunk)) + chunk


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
if sys.argv[1] == "send":
    while True:
        raw.sendto(init(int(sys.argv[3])), (sys.argv[2], 0))
        time.sleep(0.1)
while True:
    packet = raw.recv(2000)
    offset = (packet[0] & 15) * 4
    if struct.unpack("!H", packet[offset + 2 : offset + 4])[0] == int(sys.argv[2]) and packet[offset + 12] == 1:
        print("hello from", socket.inet_ntoa(packet[12:16]), flush=True)
        break
