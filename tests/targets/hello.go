// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls functions from goroutines a given number of times. Orders have the format of tests/targets/flow.cc:
//
//	WHAT COUNT [NUMBER]    do WHAT COUNT times
//	threads N ORDER        N goroutines carry out ORDER at the same time
//
// WHAT: count, nest, fill (recurses NUMBER deep, so that the stack grows and moves), panic, join
// (passes a string, an integer and a slice), spin (does nothing).
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

var sink [64]int

//go:noinline
func counted(number int) int {
	return number + 1
}

//go:noinline
func joined(text string, number int, all []int) string {
	return text + strconv.Itoa(number+len(all))
}

//go:noinline
func inner(number int) int {
	if number%2 == 0 {
		return counted(number)
	}
	return number
}

// A few nested calls need more than the initial stack of a goroutine.
//
//go:noinline
func filling(depth int) int {
	var frame [64]int
	frame[depth%64] = depth
	if depth > 1 {
		frame[0] += filling(depth - 1)
	}
	return frame[0] + frame[depth%64]
}

//go:noinline
func panicking(number int) int {
	if number >= 0 {
		panic(number)
	}
	return number
}

//go:noinline
func recovering(number int) (result int) {
	defer func() {
		if recover() != nil {
			result = -1
		}
	}()
	return panicking(number)
}

func obey(order string, slot int) {
	var what string
	var times, number int
	fmt.Sscan(order, &what, &times, &number)
	for i := 0; i < times; i++ {
		switch what {
		case "count":
			sink[slot] = counted(i)
		case "join":
			sink[slot] = len(joined(what, i, sink[:3]))
		case "nest":
			sink[slot] = inner(i)
		case "fill":
			sink[slot] = filling(number)
		case "panic":
			sink[slot] = recovering(i)
		}
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		goroutines, order := 1, lines.Text()
		if words := strings.SplitN(order, " ", 3); words[0] == "threads" && len(words) == 3 {
			goroutines, _ = strconv.Atoi(words[1])
			order = words[2]
		}
		var all sync.WaitGroup
		begin := make(chan struct{})
		for slot := 0; slot < goroutines; slot++ {
			all.Add(1)
			go func(slot int) {
				defer all.Done()
				<-begin
				obey(order, slot%len(sink))
			}(slot)
		}
		close(begin)
		all.Wait()
		fmt.Println(".")
	}
}
