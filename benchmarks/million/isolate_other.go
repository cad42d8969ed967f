//go:build !linux

package main

import (
	"context"
	"errors"
)

const insideVariable = "MILLION_INSIDE"

var errLinux = errors.New("namespaces of its own need Linux")

func isolate(context.Context, string, []string, int) error { return errLinux }

func settle() error { return errLinux }
