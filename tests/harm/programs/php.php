<?php
// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Fibers, which switch stacks, generators and exceptions through C functions. usage: php.php ROUNDS

function switch_stacks(): int
{
    $fibers = [];
    for ($start = 1; $start <= 7; $start++) {
        $fibers[] = new Fiber(function () use ($start) {
            $total = 0;
            for ($i = 0; $i < 13; $i++)
                $total += array_sum(array_map(fn ($n) => $n * Fiber::suspend($start * $i), [1, 2]));
            return $total;
        });
    }
    foreach ($fibers as $fiber)
        $fiber->start();
    for ($turn = 0; $turn < 26; $turn++)
        foreach ($turn % 2 ? array_reverse($fibers) : $fibers as $fiber)
            $fiber->resume($turn);
    return array_sum(array_map(fn ($fiber) => $fiber->getReturn(), $fibers));
}

function throw_in_fiber(): string
{
    $fiber = new Fiber(function () {
        try {
            usort_with_switch();
        } finally {
            Fiber::suspend('finally');
        }
    });
    $fiber->start();
    return $fiber->throw(new LogicException('left'));
}

function usort_with_switch(): void
{
    $numbers = [3, 1, 2];
    usort($numbers, fn ($left, $right) => Fiber::suspend() ?? $left - $right);
}

function generate(int $levels)
{
    if ($levels)
        yield from generate($levels - 1);
    yield $levels;
}

for ($round = 0; $round < (int) $argv[1]; $round++) {
    $caught = 0;
    for ($i = 0; $i < 101; $i++) {
        try {
            array_map(fn ($n) => throw new RuntimeException("$n"), [$i]);
        } catch (RuntimeException $error) {
            $caught += $error->getMessage() === "$i";
        }
    }
    echo switch_stacks(), ' ', throw_in_fiber(), ' ', array_sum(iterator_to_array(generate(17), false)), " $caught ";
    echo preg_replace_callback('/\d+/', fn ($match) => $match[0] * 2, '1 2 3'), ' ', md5(str_repeat('x', 1000)), "\n";
}
