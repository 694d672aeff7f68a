# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# Fibers and enumerators, which switch stacks, threads, exceptions and throw. usage: ruby.rb ROUNDS
ROUNDS = ARGV[0].to_i

def switch_stacks
  fibers = (1..7).map do |start|
    Fiber.new do
      total = 0
      13.times { |i| total += Fiber.yield(start * i) }
      total
    end
  end
  fibers.each(&:resume)
  results = []
  13.times { |i| results = (i.even? ? fibers : fibers.reverse).map { |fiber| fiber.resume(i) } }
  results.sum
end

def enumerate
  left = (1..53).each
  right = Enumerator.new { |yielder| 53.times { |i| yielder << [3, 1, 2].sort_by { |n| -n * i } } }
  total = 0
  loop { total += left.next + right.next.sum }
  total
end

def leave(levels)
  throw :done, levels if levels.zero?
  begin
    [levels].each { |level| leave(level - 1) }
  ensure
    $ended += 1
  end
end

def raise_below(levels)
  raise ArgumentError, 'left' if levels.zero?
  [1, 2].map { raise_below(levels - 1) }
end

ROUNDS.times do
  $ended = 0
  catch(:done) { leave(17) }
  caught = 31.times.count { |i| begin; raise_below(i % 7); rescue ArgumentError; true; end }
  threads = (1..5).map { |i| Thread.new { [switch_stacks, enumerate, i.to_s * i, GC.start.class] } }
  puts [switch_stacks, enumerate, $ended, caught, threads.map { |thread| thread.value.hash.class }].inspect
  killed = Thread.new { begin; sleep; ensure; $ended += 1; end }
  Thread.pass until killed.status == 'sleep'
  killed.kill.join
  puts $ended, IO.popen(['echo', 'child'], &:read), fork { exit 3 }.then { |pid| Process.wait2(pid)[1].exitstatus }
end
