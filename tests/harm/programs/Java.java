// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Threads, exceptions from faults that the machine handles as signals, and collections. usage: Java ROUNDS
import java.util.Arrays;
import java.util.stream.IntStream;
import java.util.zip.CRC32;

class Java {
    static int deep(int levels) {
        return deep(levels + 1) + 1;
    }

    static String work(int rounds) {
        int caught = 0;
        String nothing = null;
        for (int i = 0; i < 11 * rounds; i++) {
            try {
                caught += nothing.length();
            } catch (NullPointerException error) {
                caught++;
            }
            try {
                caught += i / (i - i);
            } catch (ArithmeticException error) {
                caught++;
            }
        }
        try {
            deep(0);
        } catch (StackOverflowError error) {
            caught++;
        }
        CRC32 sum = new CRC32();
        sum.update(new byte[99991]);
        System.gc();
        return caught + " " + sum.getValue();
    }

    public static void main(String[] arguments) throws Exception {
        int rounds = Integer.parseInt(arguments[0]);
        String[] results = new String[3];
        Thread[] threads = new Thread[3];
        for (int i = 0; i < 3; i++) {
            int own = i;
            threads[i] = new Thread(() -> results[own] = work(rounds));
            threads[i].start();
        }
        for (Thread thread : threads)
            thread.join();
        System.out.println(Arrays.toString(results) + IntStream.range(0, 997).parallel().mapToObj(Integer::toString).mapToInt(String::length).sum());
        Process child = new ProcessBuilder("sh", "-c", "exit 7").start();
        System.out.println(child.waitFor());
    }
}
