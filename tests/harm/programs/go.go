// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause

// Goroutines whose stacks grow and move, panics, collections and a server. usage: go ROUNDS
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
)

//go:noinline
func grow(levels int) int {
	var room [512]byte
	if levels == 0 {
		return int(room[0])
	}
	return grow(levels-1) + 1 + int(room[levels%512])
}

func recovered(number int) (caught int) {
	defer func() {
		if recover() != nil {
			caught = 1
		}
	}()
	sort.Slice([]int{2, 1}, func(int, int) bool { panic(number) })
	return 0
}

func work(rounds int) (sum int) {
	for i := 0; i < 53*rounds; i++ {
		sum += grow(i%300) + recovered(i)
		if i%50 == 0 {
			runtime.GC()
		}
	}
	return sum + len(strings.Repeat(strconv.Itoa(rounds), 101))
}

func main() {
	rounds, _ := strconv.Atoi(os.Args[1])
	results := make([]int, 17)
	var group sync.WaitGroup
	for i := range results {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			results[i] = work(rounds)
		}(i)
	}
	group.Wait()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.ToUpper(r.URL.Path))
	}))
	answers := 0
	for i := 0; i < 53*rounds; i++ {
		response, err := http.Get(server.URL + "/path")
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) == "/PATH" {
			answers++
		}
	}
	fmt.Println(results, answers)
}
