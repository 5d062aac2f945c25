-- One operation on one key that no single command does, or that is to happen once.
--
-- KEYS: the key; with a token, the record of its request, which is a hash of the
-- request's fingerprint and each write's outcome.
-- ARGV: the operation; of a token its fingerprint, the field of the write, and for how many
-- milliseconds it is remembered (each empty without one); then the operation's own.
-- Answers with the outcome as it is recorded (see `once.rs`): a letter, and a number or a value.

local key, record = KEYS[1], KEYS[2]
local operation, fingerprint, field, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local a, b, c = ARGV[5], ARGV[6], ARGV[7]

if record then
    local seen = redis.call('HMGET', record, 'fingerprint', field)
    if seen[1] and seen[1] ~= fingerprint then return 'R' end
    if seen[2] then return operation == 'remember' and 'd' or seen[2] end
end

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

-- Adds within bounds. What goes too far is taken back, which nobody sees in between.
local function within(delta, min, max)
    local before, failed = attempt('GET', key)
    if failed then return failed end
    local _, refused = attempt('INCRBY', key, delta)
    if refused and refused ~= 'O' then return refused end
    if not refused then
        local after = redis.call('GET', key)
        if not less(after, min) and not less(max, after) then return 'w' .. after end
        if before then
            redis.call('SET', key, before, 'KEEPTTL')
        else
            redis.call('DEL', key)
        end
    end
    return 'r' .. (before or '0')
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
        local _, failed = attempt('INCRBY', key, a)
        return failed or 'c' .. redis.call('GET', key)
    elseif operation == 'increment_within' then
        return within(a, b, c)
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
    elseif operation == 'remember' then
        return a
    end
    return redis.error_reply('ERR unknown operation')
end

local outcome = apply()
if type(outcome) == 'table' then return outcome end
if record then
    redis.call('HSET', record, 'fingerprint', fingerprint, field, outcome)
    redis.call('PEXPIRE', record, remember)
end
return operation == 'remember' and 'd' or outcome
