"""Comes in with AsyncSSH; the Go test that calls it says what for."""
import asyncio
import os
import sys

import asyncssh
from asyncssh.packet import UInt32

host, port, user, action, subject = sys.argv[1:]


async def main():
    async with asyncssh.connect(host, int(port), username=user, client_keys=os.environ["KEYS"].split(), agent_path=None,
                                password=os.environ.get("PASSWORD"), known_hosts=None, config=[]) as connection:
        if action == "channels":
            connection.send_packet(3, UInt32(3))  # UNIMPLEMENTED
            for word in "one", "two":
                print((await connection.run("echo " + word, check=True)).stdout, end="")
        elif action == "forward":
            address, at = subject.split(":")
            reader, writer = await connection.open_connection(address, int(at))
            writer.write(b"hello")
            writer.write_eof()
            print((await reader.read()).decode())
        elif action == "pipe":
            process = await connection.create_process(subject)
            print(await process.stdout.readline(), end="")
            process.close()
            await process.wait_closed()


asyncio.run(main())
