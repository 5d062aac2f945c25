-- Operations on one key that no single command does, or that are to be applied once; and
-- increments of several keys.
--
-- KEYS: the key, or those of `increments`.
-- ARGV: the operation; for how many milliseconds writes are recorded; the write's id, or nothing;
-- then the operation's own. An id is the request (16 bytes), the write (8) and the request's
-- fingerprint (4).
-- Answers with the outcome as it is recorded (see `idempotency.rs`): a letter, and a number or a
-- value; behind '=' one that had been recorded before. 'U' means that it may have been applied and is
-- not recorded. `increments` answers with a list for each key.
--
-- Records lie in hashes `tally.write:GENERATION:SHARD`, by request: the fingerprint, then for each
-- write its 8 bytes, the length of its outcome (4) and the outcome. Small hashes take the least
-- memory that Redis offers, and the shards keep them small. A generation takes records for half
-- of the window; `tally.write` has when each began. A hash expires a window and a half after its first
-- record, and so a window after its last, or later.
-- The names of these hashes depend on what is in `tally.write`, so they are not among KEYS: this
-- takes a single server or a master with replicas.

local key, operation, window, id = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local a, b, c = ARGV[4], ARGV[5], ARGV[6]

-- Numbers of this many digits and less are exact in Lua, and so are their sums.
local EXACT = 15

-- Runs a command that what the key holds may refuse. The second result says how: a letter that is
-- an outcome, or an error of the server's, which is none.
local function attempt(...)
    local reply = redis.pcall(...)
    if type(reply) ~= 'table' or not reply.err then return reply end
    local text = reply.err
    if string.find(text, 'WRONGTYPE', 1, true) then return nil, 'T' .. text end
    if string.find(text, 'not an integer', 1, true) then return nil, 'N' end
    if string.find(text, 'overflow', 1, true) then return nil, 'O' end
    return nil, reply
end

-- Whether one number is below another. As text: Lua's own numbers end at 53 bits.
local function less(one, other)
    local negative, negative_other = one:sub(1, 1) == '-', other:sub(1, 1) == '-'
    if negative ~= negative_other then return negative end
    if negative then one, other = other:sub(2), one:sub(2) end
    if #one ~= #other then return #one < #other end
    return one < other
end

-- Adds within bounds. What goes too far is taken back, which nobody sees in between. A key that is
-- created gets the time to live, if one is given.
local function within(delta, min, max, ttl)
    local before, failed = attempt('GET', key)
    if failed then return failed end
    local _, refused = attempt('INCRBY', key, delta)
    if refused and refused ~= 'O' then return refused end
    if not refused then
        local after = redis.call('GET', key)
        if not less(after, min) and not less(max, after) then
            if not before and ttl ~= '' then redis.call('PEXPIRE', key, ttl) end
            return 'w' .. after
        end
        if before then
            redis.call('SET', key, before, 'KEEPTTL')
        else
            redis.call('DEL', key)
        end
    end
    return 'r' .. (before or '0')
end

-- The generations in which a record may be, the oldest first: their numbers and beginnings.
local generations

-- Begins a generation when it is time, and leaves out those whose records have all expired.
local function open_records()
    if generations then return end
    generations = {}
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    local fields = redis.call('HGETALL', 'tally.write')
    for i = 1, #fields, 2 do
        generations[#generations + 1] = { tonumber(fields[i]), tonumber(fields[i + 1]) }
    end
    table.sort(generations, function(one, other) return one[1] < other[1] end)
    local last = generations[#generations]
    if not last or now - last[2] >= window / 2 then
        last = { last and last[1] + 1 or 1, now }
        generations[#generations + 1] = last
        redis.call('HSET', 'tally.write', last[1], string.format('%.0f', now))
    end
    while generations[2] and now - generations[2][2] >= tonumber(window) do
        redis.call('HDEL', 'tally.write', generations[1][1])
        table.remove(generations, 1)
    end
end

local function shard(generation, write)
    return string.format('tally.write:%d:%02x%02x', generation[1], write:byte(1, 2))
end

-- The recorded outcome of a write, or 'R' where another request had the name. The second result is
-- what the current generation holds of the request.
local function find(write)
    local held
    for i = #generations, 1, -1 do
        local record = redis.call('HGET', shard(generations[i], write), write:sub(1, 16))
        if record then
            if i == #generations then held = record end
            if record:sub(1, 4) ~= write:sub(25, 28) then return 'R' end
            local at = 5
            while at <= #record do
                local length = struct.unpack('>I4', record, at + 8)
                if record:sub(at, at + 7) == write:sub(17, 24) then
                    return record:sub(at + 12, at + 11 + length), held
                end
                at = at + 12 + length
            end
        end
    end
    return nil, held
end

-- Adds an outcome to what the current generation holds of the request; gives what it holds then.
local function put(write, outcome, held)
    local name = shard(generations[#generations], write)
    local record = (held or write:sub(25, 28)) .. write:sub(17, 24)
        .. struct.pack('>I4', #outcome) .. outcome
    redis.call('HSET', name, write:sub(1, 16), record)
    -- Its generation takes records for half a window from its beginning on.
    if redis.call('HLEN', name) == 1 then redis.call('PEXPIRE', name, math.floor(window * 1.5)) end
    return record
end

local function replayed(found)
    return found == 'R' and found or '=' .. found
end

-- Applies the increments of one key, which begin at a place in ARGV: the time to live of a key that is
-- created, or nothing; the number of increments; then for each its id, or nothing, and its delta.
-- Answers with a list of replies.
local function increments_of(key, at)
    local ttl, count, first = ARGV[at], tonumber(ARGV[at + 1]), at + 2
    local replies, held, new, sum, digits = {}, {}, {}, 0, 0
    for member = 1, count do
        local write, delta = ARGV[first + 2 * member - 2], ARGV[first + 2 * member - 1]
        local found
        if write ~= '' then found, held[member] = find(write) end
        if found then
            replies[member] = replayed(found)
        else
            new[#new + 1] = member
            digits = math.max(digits, #delta)
            sum = sum + tonumber(delta)
        end
    end
    if #new == 0 then return replies end
    -- By request, as several may be of one: a later one adds to what an earlier one has put there.
    local put_before = {}
    local function reply(member, outcome)
        local write = ARGV[first + 2 * member - 2]
        -- An error of the server's is no outcome: it is answered and not recorded.
        if type(outcome) ~= 'table' and write ~= '' then
            local request = write:sub(1, 16)
            put_before[request] = put(write, outcome, put_before[request] or held[member])
        end
        replies[member] = outcome
    end
    local before, failed = attempt('GET', key)
    if not failed and digits < EXACT - 3 and (not before or #before <= EXACT) then
        -- All at once: nothing can overflow, and each one's number follows from the last.
        local _
        _, failed = attempt('INCRBY', key, string.format('%.0f', sum))
        if not failed then
            if not before and ttl ~= '' then redis.call('PEXPIRE', key, ttl) end
            local number = tonumber(before or '0')
            for _, member in ipairs(new) do
                number = number + tonumber(ARGV[first + 2 * member - 1])
                reply(member, string.format('c%.0f', number))
            end
            return replies
        end
    end
    for _, member in ipairs(new) do
        local refused = failed
        if not refused then
            local _
            _, refused = attempt('INCRBY', key, ARGV[first + 2 * member - 1])
            if not refused then
                if not before and ttl ~= '' then redis.call('PEXPIRE', key, ttl) end
                before = redis.call('GET', key)
            end
        end
        reply(member, refused or 'c' .. before)
    end
    return replies
end

-- ARGV: for each key, what `increments_of` takes.
local function increments()
    open_records()
    local all, at = {}, 4
    for place, name in ipairs(KEYS) do
        -- What fails in the middle may have been applied in part.
        local whole, list = pcall(increments_of, name, at)
        all[place] = whole and list or 'U'
        at = at + 2 + 2 * tonumber(ARGV[at + 1])
    end
    return all
end

local function apply()
    if operation == 'set' then
        if b == '' then redis.call('SET', key, a) else redis.call('SET', key, a, 'PX', b) end
        return 'd'
    elseif operation == 'get_and_set' then
        local before, failed
        if b == '' then
            before, failed = attempt('SET', key, a, 'GET')
        else
            before, failed = attempt('SET', key, a, 'PX', b, 'GET')
        end
        return failed or (before and 'v' .. before or 'n')
    elseif operation == 'set_if_absent' then
        local set
        if b == '' then
            set = redis.call('SET', key, a, 'NX')
        else
            set = redis.call('SET', key, a, 'PX', b, 'NX')
        end
        return set and 't' or 'f'
    elseif operation == 'delete' then
        redis.call('DEL', key)
        return 'd'
    elseif operation == 'increment' then
        local created = b and b ~= '' and redis.call('EXISTS', key) == 0
        local _, failed = attempt('INCRBY', key, a)
        if failed then return failed end
        if created then redis.call('PEXPIRE', key, b) end
        return 'c' .. redis.call('GET', key)
    elseif operation == 'increment_within' then
        return within(a, b, c, ARGV[7])
    elseif operation == 'swap' then
        local current, failed = attempt('GET', key)
        if failed then return failed end
        local same
        if a == '1' then same = current == b else same = not current end
        if not same then return current and 'x' .. current or 'y' end
        redis.call('SET', key, c, 'KEEPTTL')
        return 's'
    elseif operation == 'expire' then
        if a ~= '' then return redis.call('PEXPIRE', key, a) == 1 and 't' or 'f' end
        redis.call('PERSIST', key)
        return redis.call('EXISTS', key) == 1 and 't' or 'f'
    elseif operation == 'forgo' then
        return 'z'
    end
    return redis.error_reply('ERR unknown operation')
end

if operation == 'increments' then
    return increments()
end
local held
if id ~= '' then
    open_records()
    local found
    found, held = find(id)
    if found then return replayed(found) end
end
local outcome = apply()
if type(outcome) ~= 'table' and id ~= '' then
    -- Applied and not recorded: a repeat would not find it.
    if not pcall(put, id, outcome, held) then return 'U' end
end
return outcome
