//go:build !linux

package main

// takeSlack does nothing where the kernel has no such setting.
func takeSlack([]string) {}
