# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Greenlets that switch stacks, threads, C callbacks that raise, and processes. usage: python.py ROUNDS"""
import concurrent.futures
import ctypes
import functools
import json
import multiprocessing
import re
import sqlite3
import sys
import zlib

import gevent
import gevent.pool
import gevent.queue

ROUNDS = int(sys.argv[1])


def switch_stacks():
    queue = gevent.queue.Queue(3)

    def produce(start):
        for number in range(start, start + 53):
            queue.put(number)

    def consume():
        total = 0
        for _ in range(53):
            total += queue.get()
        return total

    producers = [gevent.spawn(produce, start) for start in range(7)]
    consumers = [gevent.spawn(consume) for _ in range(7)]
    gevent.joinall(producers + consumers)
    return sum(consumer.value for consumer in consumers)


def kill_greenlets():
    ended = []

    def wait():
        try:
            gevent.sleep(1000)
        finally:
            ended.append(1)

    greenlets = [gevent.spawn(wait) for _ in range(17)]
    gevent.sleep(0)
    gevent.killall(greenlets)
    return len(ended)


def call_back():
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 101)(*[number * 37 % 101 for number in range(101)])
    ctypes.CDLL(None).qsort(numbers, 101, 4, compare(lambda left, right: left[0] - right[0]))
    return list(numbers) == list(range(101))


def raise_in_sqlite():
    database = sqlite3.connect(":memory:")
    database.create_function("refuse", 1, lambda number: 1 // number)
    raised = 0
    for number in range(17):
        try:
            database.execute("select refuse(?)", (number % 2,)).fetchone()
        except sqlite3.OperationalError:
            raised += 1
    return raised


def work(number):
    text = json.dumps([number] * 53)
    return len(zlib.compress(text.encode())) and len(re.findall(r"\d+", text))


for _ in range(ROUNDS):
    print(switch_stacks(), kill_greenlets(), call_back(), raise_in_sqlite())
    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        print(sum(threads.map(work, range(31))))
    with multiprocessing.get_context("fork").Pool(2) as processes:
        print(functools.reduce(int.__add__, processes.map(work, range(17))))
