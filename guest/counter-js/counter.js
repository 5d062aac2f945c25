// A shared counter, in JavaScript: `POST /increment`, `GET /report`, `POST /reset`.
//
// It answers as `guest/counter` does, which is in Rust. Counts are BigInts from end to end, because
// a Number keeps 53 bits of an integer and a count has 64.

import { getAndSet, incrementFor, setIfAbsent } from 'tally:keyvalue/extensions@0.1.0';
import { get as requestHeader } from 'tally:plugin/request-headers@0.1.0';
import { guestVersion, instance, processId } from 'tally:plugin/worker@0.1.0';
import { Cas, increment as add, swap } from 'wasi:keyvalue/atomics@0.2.0-draft2';
import { open } from 'wasi:keyvalue/store@0.2.0-draft2';

// The counter that is meant where the query names none.
const DEFAULT_NAME = 'count';

// Longest name of a counter, in bytes: well below what stores take for a key.
const MAX_NAME_BYTES = 256;

// Longest text of a signed 64-bit integer.
const MAX_COUNT_BYTES = '-9223372036854775808'.length;

// Milliseconds of the units of a time to live.
const UNITS = { ms: 1n, s: 1_000n, m: 60_000n, h: 3_600_000n, d: 86_400_000n };

// The longest time to live: 100 years, as stores take it.
const LONGEST_TTL = 36_525n * UNITS.d;

const NO_STORE = ['cache-control', 'no-store'];

const encoder = new TextEncoder();
const ZERO = encoder.encode('0');
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

const ROUTES = new Map([
  ['/increment', { methods: ['POST'], answer: increment }],
  ['/report', { methods: ['GET', 'HEAD'], answer: report }],
  ['/reset', { methods: ['POST'], answer: reset }],
]);

const PARAMETERS = new Map([
  ['by', readBy],
  ['name', readName],
  ['ttl', readTtl],
]);

// What the world exports. An `error` of the handler is thrown as the variant it is.
export const handler = {
  handle({ method, path, query = '' }) {
    const route = ROUTES.get(path);
    if (!route) throw { tag: 'not-found' };
    if (!route.methods.includes(method)) throw { tag: 'method-not-allowed', val: route.methods };
    return route.answer(readQuery(query));
  },
};

function increment({ name, by, ttl }) {
  const count = inBucket((bucket) => {
    if (by < 0n) return subtract(bucket, name, by, ttl);
    return ttl === undefined ? add(bucket, name, by) : incrementFor(bucket, name, by, ttl);
  });
  return json([NO_STORE], `{"count":${count}}`);
}

// Adds a negative number, by compare-and-swap, as componentize-js 0.23 traps on one in an argument
// (github.com/bytecodealliance/ComponentizeJS/issues/343). Exact as well, but each of several at
// once takes its turn.
//
// A counter with a time to live is created as 0 first, because a swap gives none: always, so that a
// request that is made again makes the same writes.
function subtract(bucket, name, by, ttl) {
  if (ttl !== undefined) setIfAbsent(bucket, name, ZERO, ttl);
  let held = Cas.new(bucket, name);
  for (;;) {
    const value = held.current();
    if (!value && ttl !== undefined) {
      // Its time was over meanwhile.
      setIfAbsent(bucket, name, ZERO, ttl);
      held = Cas.new(bucket, name);
      continue;
    }
    const count = value ? readCount(value) : 0n;
    if (count === undefined) {
      throw { tag: 'state', val: `the counter '${name}' does not hold a number` };
    }
    const sum = count + by;
    if (BigInt.asIntN(64, sum) !== sum) {
      const range = 'the range of a signed 64-bit integer';
      throw { tag: 'state', val: `the increment would leave ${range}; nothing was changed` };
    }
    try {
      swap(held, encoder.encode(String(sum)));
      return sum;
    } catch (error) {
      if (error.payload?.tag === 'store-error') throw { payload: error.payload.val };
      if (error.payload?.tag !== 'cas-failed') throw error;
      held = error.payload.val;
    }
  }
}

function reset({ name, ttl }) {
  // In one step, so that what others add meanwhile is in this count or in the next.
  const before = inBucket((bucket) => getAndSet(bucket, name, ZERO, ttl));
  // What was no number is gone now.
  const previous = before ? readCount(before) ?? null : 0n;
  return json([NO_STORE], `{"count":0,"previous":${previous}}`);
}

function report({ name }) {
  const value = inBucket((bucket) => bucket.get(name));
  const count = value ? readCount(value) : 0n;
  if (count === undefined) {
    throw { tag: 'state', val: `the counter '${name}' does not hold a number` };
  }
  // The count alone decides, as the rest says only who answered.
  const tag = `"${count}"`;
  const seen = requestHeader('if-none-match');
  if (seen !== undefined && matches(seen, tag)) {
    return { status: 304, headers: [['etag', tag]], body: new Uint8Array() };
  }
  // Written by hand, as JSON.stringify takes no BigInt.
  return json(
    [['etag', tag], ['cache-control', 'no-cache']],
    `{"count":${count},"current_process_id":${processId()},"instance":${instance()},` +
      `"guest_version":"${guestVersion()}"}`,
  );
}

function json(headers, text) {
  return {
    status: 200,
    headers: [...headers, ['content-type', 'application/json']],
    body: encoder.encode(text),
  };
}

// Does something with the default bucket. What the store refuses is thrown as a `state` error.
function inBucket(operation) {
  try {
    return operation(open('default'));
  } catch (error) {
    switch (error.payload?.tag) {
      case 'no-such-store':
        throw { tag: 'state', val: "the bucket 'default' is not configured for this guest" };
      case 'access-denied':
        throw { tag: 'state', val: "this guest may not use the bucket 'default'" };
      case 'other':
        throw { tag: 'state', val: error.payload.val };
      default:
        throw error;
    }
  }
}

// Reads a query. Parameters that the counter does not know are let be; one that it knows must be
// right and stand there once, as counting something else than was meant cannot be undone.
function readQuery(query) {
  const given = {};
  for (const pair of query.split('&')) {
    const [key, ...rest] = pair.split('=');
    const read = PARAMETERS.get(key);
    if (!read) continue;
    const value = read(rest.join('='));
    if (key in given) throw badRequest(`'${key}' must be given once`);
    given[key] = value;
  }
  return { name: DEFAULT_NAME, by: 1n, ...given };
}

function readBy(text) {
  // A plus sign arrives as a space, if the client did not encode it.
  const by = readInteger(text.replace(/^%2B/i, ''));
  if (by === undefined) {
    throw badRequest(
      "'by' must be a whole number from -9223372036854775808 to 9223372036854775807",
    );
  }
  return by;
}

function readTtl(text) {
  const [, number, unit] = /^0*([0-9]{1,13})(ms|s|m|h|d)$/.exec(text) ?? [];
  const ttl = unit ? BigInt(number) * UNITS[unit] : 0n;
  if (ttl < 1n || ttl > LONGEST_TTL) {
    throw badRequest(
      "'ttl' must be a time from 1ms to 36525d, such as 500ms, 60s, 1m, 1h or 1d",
    );
  }
  return ttl;
}

function readName(text) {
  let name;
  try {
    name = decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw badRequest("'name' must be percent-encoded UTF-8");
  }
  const bytes = encoder.encode(name).length;
  if (bytes === 0 || bytes > MAX_NAME_BYTES || name.includes('\0')) {
    throw badRequest(`'name' must be 1 to ${MAX_NAME_BYTES} bytes long, without NUL`);
  }
  return name;
}

function badRequest(text) {
  return { tag: 'bad-request', val: text };
}

// The number a value holds, in the one form that can be counted on (`007` and `+7` cannot).
function readCount(value) {
  if (value.length > MAX_COUNT_BYTES) return undefined;
  const text = decoder.decode(value);
  const count = readInteger(text);
  return String(count) === text ? count : undefined;
}

// The signed 64-bit integer that a text says, if it says one.
function readInteger(text) {
  if (!/^[+-]?[0-9]+$/.test(text)) return undefined;
  const integer = BigInt(text);
  return BigInt.asIntN(64, integer) === integer ? integer : undefined;
}

// Whether `If-None-Match` names the tag (RFC 9110, 13.1.2: weak comparison).
function matches(seen, tag) {
  return (
    seen.trim() === '*' ||
    seen.split(',').some((one) => one.trim().replace(/^W\//, '') === tag)
  );
}
