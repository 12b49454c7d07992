"""Comes in with paramiko; the Go test that calls it says what for."""
import os
import sys

import paramiko

host, port, user, action, subject = sys.argv[1:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(host, int(port), user, key_filename=os.environ["KEYS"].split(), password=os.environ.get("PASSWORD"),
               allow_agent=False, look_for_keys=False, timeout=30)
transport = client.get_transport()


def run(command):
    return client.exec_command(command)[1].read().decode()


if action == "channels":
    message = paramiko.Message()
    message.add_byte(b"\x03")  # UNIMPLEMENTED
    message.add_int(3)
    transport._send_user_message(message)
    print(run("echo one"), run("echo two"), sep="", end="")
elif action == "forward":
    address, at = subject.split(":")
    channel = transport.open_channel("direct-tcpip", (address, int(at)), ("127.0.0.1", 1))
    channel.sendall(b"hello")
    channel.shutdown_write()
    print(channel.makefile().read().decode())
elif action == "pipe":
    output = client.exec_command(subject)[1]
    print(output.readline(), end="")
    output.channel.close()
client.close()
