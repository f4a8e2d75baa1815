// Loaded before a client in Node.js: names below `.test` are this machine.

import dns from 'node:dns';

const lookup = dns.lookup;
dns.lookup = (host, ...rest) => lookup(host.endsWith('.test') ? '127.0.0.1' : host, ...rest);
