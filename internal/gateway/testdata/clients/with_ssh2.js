// Comes in with npm's ssh2; the Go test that calls it says what for.
const { readFileSync } = require('fs');
const modules = process.env.MODULES;
const { Client } = require(`${modules}/ssh2`);
const { sendPacket } = require(`${modules}/ssh2/lib/protocol/utils.js`);

const [host, port, username, action, subject] = process.argv.slice(2);
const methods = process.env.KEYS.split(' ').filter((key) => key)
  .map((key) => ({ type: 'publickey', username, key: readFileSync(key) }));
if (process.env.PASSWORD) methods.push({ type: 'password', username, password: process.env.PASSWORD });

const client = new Client();
const failed = (err) => { if (err) { console.error(err); process.exit(1); } };

function unimplemented() {
  const writer = client._protocol._packetRW.write;
  const at = writer.allocStart;
  const packet = writer.alloc(5);
  packet.set([3, 0, 0, 0, 3], at);
  sendPacket(client._protocol, writer.finalize(packet));
}

function run(command, done) {
  client.exec(command, (err, stream) => {
    failed(err);
    stream.on('data', (data) => process.stdout.write(data)).on('close', done);
  });
}

client.on('error', failed).on('ready', () => {
  const end = () => client.end();
  if (action === 'channels') {
    unimplemented();
    run('echo one', () => run('echo two', end));
  } else if (action === 'forward') {
    const [address, at] = subject.split(':');
    client.forwardOut('127.0.0.1', 1, address, Number(at), (err, stream) => {
      failed(err);
      stream.on('data', (data) => process.stdout.write(data)).on('close', end).end('hello');
    });
  } else if (action === 'pipe') {
    client.exec(subject, (err, stream) => {
      failed(err);
      let output = '';
      stream.on('data', (data) => {
        const began = output.includes('\n');
        output += data;
        if (began || !output.includes('\n')) return;
        console.log(output.split('\n')[0]);
        stream.close();
      }).on('close', end);
    });
  }
}).connect({ host, port, username, authHandler: methods });
