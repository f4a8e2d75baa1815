// What the clients in TypeScript's SDKs have in common: see native.py.

import { createServer } from 'node:http';
import './names.mjs';

// How long a person may take, in milliseconds.
const PATIENCE = 60_000;

export function tell(message) {
    console.log(JSON.stringify(message));
}

// Waits for the browser to come back.
export async function listen() {
    let arrive;
    const arrived = new Promise((resolve, reject) => {
        arrive = resolve;
        setTimeout(() => reject(new Error('nobody came back')), PATIENCE).unref();
    });
    // Whoever waits is told; a client that needs no person waits for nobody.
    arrived.catch(() => {});
    const server = createServer((request, response) => {
        const url = new URL(request.url, 'http://127.0.0.1');
        const found = url.pathname === '/callback';
        response.writeHead(found ? 200 : 404, { 'content-type': 'text/html' });
        response.end('<!doctype html><title>Back</title><p>You can close this window.');
        if (found) arrive(url.searchParams);
    });
    await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
    return { url: `http://127.0.0.1:${server.address().port}/callback`, arrived };
}
