//! The native module of the Python package: conversion, GIL, event loop.
