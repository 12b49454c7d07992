"""Comes in with libssh; the Go test that calls it says what for."""
import os
import sys

from pylibsshext.session import Session

host, port, user, action, subject = sys.argv[1:]
session = Session()
for key in os.environ["KEYS"].split():
    session.set_ssh_options("add_identity", key)
session.connect(host=host, port=int(port), user=user, password=os.environ.get("PASSWORD"), host_key_checking=False, timeout=30)
if action == "channels":
    channel = session.new_channel()
    for word in "one", "two":
        print(channel.exec_command("echo " + word).stdout.decode(), end="")
    channel.close()
elif action == "pipe":
    channel = session.new_channel()
    channel.request_exec(subject)
    output = b""
    while b"\n" not in output:
        channel.poll(1000)
        output += channel.recv()
    print(output.decode().splitlines()[0])
    channel.close()
session.close()
